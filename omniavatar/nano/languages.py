"""Languages besides English to train on: their accents, and common words to make sentences of.

Sentences are words in any order: for the mouth it is sounds that count. As in `sentences`, the
short words that every sentence needs are shared, and the others are split in two.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Language:
    """What training knows of a language.

    Attributes:
        accents: names of its voices in espeak-ng.
        common: short words that both sides share.
        training, held_out: other words, none of them in both.
        sounds: phonemes, or letters of them, in espeak's spelling -> names of `speech.VISEMES`,
            where the mouth is another than for English or English has no such sound.
    """

    accents: tuple[str, ...]
    common: tuple[str, ...]
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    sounds: Mapping[str, str]

    def sentence(self, chance: random.Random, *, held_out: bool) -> str:
        """Two to thirteen words, with a comma in some of the long ones."""
        words = self.held_out if held_out else self.training
        chosen = [
            chance.choice(self.common if chance.random() < 1 / 3 else words)
            for _ in range(chance.randint(2, 13))
        ]
        if len(chosen) > 6 and chance.random() < 0.5:
            chosen[chance.randint(2, len(chosen) - 3)] += ","
        return " ".join(chosen) + chance.choices(".!?", weights=(75, 10, 15))[0]


# Taps of the tongue, and the glide that espeak puts after a soft consonant.
_TAPS_AND_GLIDES = {"*": "t", "**": "t", ";": "y"}
_ROLLED = {"r": "l", "R": "l", **_TAPS_AND_GLIDES}
_IN_THE_THROAT = {"r": "k", "R": "k", **_TAPS_AND_GLIDES}
_ROUNDED_IN_FRONT = {"y": "oo", "Y": "oh", "W": "oh"}


def _language(
    accents: str, common: str, training: str, held_out: str, sounds: Mapping[str, str]
) -> Language:
    return Language(
        tuple(accents.split()),
        tuple(common.split()),
        tuple(training.split()),
        tuple(held_out.split()),
        MappingProxyType(dict(sounds)),
    )


_GERMAN = _language(
    "de",
    """
    der die das ein eine und oder aber nicht auch ich du er sie es wir ihr mein dein sein ihre mit
    von zu in auf an bei nach für über unter durch ohne gegen wenn weil dass wie was wer wo ist war
    hat sind wird kann muss sehr noch schon nur hier dort jetzt
    """,
    """
    Abend Apfel Arbeit Arzt Auge Auto Bahnhof Baum Berg Bett Bild Blume Boden Brief Brot Bruder
    Brücke Buch Dach Dorf Ecke Ei Eltern Ende Erde Essen Familie Farbe Fenster Feuer Fisch Flasche
    Fluss Frage Frau Freund Frühling Fuß Garten Gast Geld Geschichte Gesicht Glas Glück Hand Haus
    Herbst Herz Himmel Hund Hunger Jahr Junge Kaffee Kartoffel Katze Kind Kirche Kleid Koch König
    Kopf Körper Küche Kuchen Land Leben Lehrer Licht Liebe Lied Löffel Luft Mädchen Mann Markt Meer
    Messer Milch Minute Mittag Monat Mond Morgen Mund Musik Mutter Nacht Name Nase Obst Ohr Papier
    Pferd Pflanze Platz Preis Regen Reise Salz Schiff Schlüssel Schnee Schrank Schuh Schule
    Schwester See Seite Sohn Sommer Sonne Spiegel Spiel Sprache Stadt Stein Stern Stimme Straße
    Stuhl Stunde Tag Tasche Tasse Teller Tier Tisch Tochter Tür Uhr Vater Vogel Wagen Wald Wand
    Wasser Weg Wein Welt Wetter Wind Winter Woche Wohnung Wort Zahl Zeit Zeitung Zimmer Zug Zucker
    alt arm blau böse braun breit dick dunkel dünn einfach falsch fertig frei fröhlich früh gelb
    gesund glücklich groß grün gut heiß hell hoch jung kalt klein klug kurz lang langsam laut leer
    leicht leise lustig möglich müde neu offen reich richtig rot rund sauber schnell schön schwarz
    schwer spät stark süß teuer tief traurig voll warm weiß wichtig arbeiten beginnen bleiben
    brauchen bringen denken dürfen fahren fallen fangen finden fliegen fragen geben gehen
    glauben gewinnen halten heißen helfen hören kaufen kennen kommen lachen laufen
    lernen lesen lieben liegen machen nehmen öffnen rufen sagen schicken schlafen schließen
    schreiben schwimmen sehen singen sitzen spielen sprechen stehen suchen tanzen tragen trinken
    verlieren vergessen verkaufen verstehen warten waschen wohnen wünschen zahlen zeigen
    """,
    """
    Ameise Anzug Ausflug Bäckerei Bibliothek Biene Birne Bleistift Brille Bürste Dampf Decke Dose
    Eichhörnchen Eimer Erdbeere Esel Fahrrad Feder Flugzeug Frosch Gabel Geburtstag Gemüse
    Gewitter Hafen Handtuch Hemd Honig Igel Insel Jacke Kamm Keller Kirsche Knopf Kürbis Lampe
    Mücke Möhre Nachbar Nebel Ofen Pfeffer Pfirsich Quelle Rucksack Schäfer Schmetterling Seife
    Tänzer Teppich Treppe Übung Vorhang Werkzeug Wolke Würfel Zwiebel bequem ehrlich feucht
    frech gemütlich höflich mutig neugierig nützlich scharf stumpf weich zufrieden backen bauen
    drücken entdecken flüstern fühlen genießen hüpfen klettern malen reparieren schütteln träumen
    zeichnen
    """,
    {"C": "y", "3": "uh", "pF": "p", **_IN_THE_THROAT, **_ROUNDED_IN_FRONT},
)
_FRENCH = _language(
    "fr fr-ch fr-be",
    """
    le la les un une des et ou mais pas aussi je tu il elle nous vous ils mon ton son notre votre
    avec de du à au en dans sur sous pour par sans chez quand si que qui quoi où est était sont a
    ont fait peut doit très encore déjà plus ici là maintenant toujours
    """,
    """
    ami amour an année arbre argent avion bateau beurre blé boîte bois bonjour bouche bouteille
    bras bruit bureau café campagne chaise chambre champ chanson chapeau chat cheval cheveux chien
    chose ciel clé coeur coin corps côté couleur coup cuisine dame dent dimanche doigt eau école
    église enfant épaule été étoile famille femme fenêtre fête feu feuille fille fils fin fleur
    fois forêt frère froid fromage fruit garçon gâteau genou gens goût guerre herbe heure histoire
    hiver homme huile île jambe jardin jeu jeudi jour journal joue lait langue leçon lettre lieu
    lit livre loup lumière lune main maison marché mari matin mer mère midi mois moment monde
    montagne mot mouton musique neige nez nom nuit oeil oeuf oiseau ombre oncle oreille pain papier
    parole pays peau père peur pied pierre place plage pluie poisson pomme pont porte poule prix
    printemps question quartier reine repas reste roi route rue sable sac saison sel semaine soeur
    soif soir soleil sommeil table temps terre tête toit train travail vache vent verre viande vie
    village ville vin visage voisin voiture voix voyage beau blanc bleu bon brun chaud cher clair
    content court doux dur faible fier fort frais gentil grand gris gros haut heureux jaune jeune
    jaloux joli large léger lent long lourd mauvais mince neuf noir nouveau petit plein profond
    propre riche rond rouge sage sec seul simple triste vert vieux vrai acheter aimer aller
    apprendre arriver attendre boire chanter chercher choisir comprendre connaître courir croire
    danser demander devenir dire donner dormir écouter écrire entendre entrer finir gagner habiter
    jouer laisser lire manger marcher mettre montrer monter mourir ouvrir parler partir penser
    perdre porter pouvoir prendre quitter recevoir regarder rendre répondre rester revenir rire
    savoir sentir suivre tenir tomber travailler trouver vendre venir vivre voir vouloir
    """,
    """
    abeille agneau aiguille ampoule araignée armoire assiette auberge balai baleine bijou bougie
    boulanger brouillard brume canard carotte cerise champignon chaussure chemin chouette ciseaux
    citron coiffeur coquillage couteau crayon cuillère dauphin écureuil éléphant éponge escalier
    fauteuil foudre fourmi framboise gant gare grenouille guitare hibou horloge jupe lapin lunettes
    manteau médecin miroir mouche moulin nuage ongle orage panier papillon parapluie pêcheur
    peinture poire poivre pompier raisin renard rideau ruisseau savon singe souris tambour
    tortue usine vélo aigu brillant célèbre creux drôle étrange honnête humide joyeux malin
    paresseux pointu tranquille utile bâtir bouger casser conduire coudre cueillir deviner
    échanger embrasser grandir nager oublier peindre plonger rêver souffler
    """,
    {"O~": "oh", **_IN_THE_THROAT, **_ROUNDED_IN_FRONT},
)
_SPANISH = _language(
    "es es-419",
    """
    el la los las un una y o pero no también yo tú él ella nosotros ellos mi tu su nuestro con de
    del a al en sobre bajo para por sin desde hasta cuando si que quien dónde cómo es era son está
    hay ha puede debe muy más ya sólo aquí allí ahora siempre nunca
    """,
    """
    abuelo agua aire alma amigo amor animal año árbol arena arroz azúcar baile banco barco barrio
    boca bolsa bosque botella brazo caballo cabeza café caja calle cama camino campo canción cara
    carne carta casa cena cielo ciudad clase coche cocina color comida corazón cosa cuadro cuarto
    cuello cuento cuerpo dedo deseo día diente dinero dolor dueño edad escuela espejo estrella
    fábrica familia fiesta flor fondo frente fruta fuego fuerza gato gente gracia gusto hambre
    hermana hermano hielo hierba hija hijo historia hoja hombre hora huevo iglesia isla jardín
    jefe joven juego jueves lado lago lámpara lápiz leche lengua letra libro limón lluvia lobo luna
    lunes luz llave madre maestro mañana mano manzana mar mesa mes miedo mitad momento montaña
    muchacho mujer mundo música nariz niebla nieve niña niño noche nombre nube número ojo oreja oro
    otoño padre página país pájaro palabra pan papel pared parque pecho perro pescado pez piedra
    piel pierna playa plaza pluma pobre poema precio pregunta primo pueblo puente puerta puerto
    queso razón regalo reina reloj rey río ropa rosa sal sangre semana señor silla sol sombra sonido
    sueño suelo tarde tiempo tienda tierra tío tren tristeza vaca vaso vecino ventana verano verdad
    vestido viaje vida viento vino voz zapato abierto alegre alto amable amarillo ancho azul bajo
    barato blanco bonito bueno caliente cansado caro claro corto débil delgado difícil dulce
    enfermo extraño fácil feliz feo frío fuerte gordo gracioso grande grueso guapo largo lento libre
    limpio listo lleno malo nuevo oscuro pequeño pesado rápido rico rojo seco solo suave sucio
    triste vacío verde viejo abrir aprender ayudar bailar beber buscar caer cambiar caminar cantar
    cerrar comer comprar conocer contar correr creer dar decir dejar dormir empezar entender
    escribir escuchar esperar estudiar ganar hablar hacer jugar leer llamar llegar llevar llorar
    llover mirar morir nacer olvidar pagar pensar perder poner querer recibir recordar saber salir
    seguir sentir soñar subir tener tocar tomar trabajar traer vender venir ver vivir volver
    """,
    """
    abeja abrigo aceite aguja ajedrez albañil alfombra almendra ardilla avión ballena bandera
    barba bicicleta bigote bombero brujo bufanda burro búho calabaza camisa campana carpintero
    castillo cebolla cepillo cereza ceja cigüeña colchón collar conejo cuchara cuchillo desayuno
    escalera estufa faro fresa garganta guante guitarra hormiga horno jabón jirafa lechuga lluvioso
    mariposa martillo mochila naranja nido oveja pañuelo paraguas payaso peluquero pimienta piña
    pintura puño rana ratón rodilla salchicha sandía semilla sombrero tambor tenedor tijera tortuga
    uva vela yegua zanahoria áspero cómodo curioso estrecho hermoso húmedo orgulloso perezoso
    tranquilo valiente añadir barrer dibujar encender enseñar esconder gritar nadar pintar
    preguntar reír romper saltar soplar susurrar volar
    """,
    {"B": "f", "J": "y", "Q": "k", **_ROLLED},
)
_ITALIAN = _language(
    "it",
    """
    il lo la i gli le un una e o ma non anche io tu lui lei noi voi loro mio tuo suo nostro con di
    del a al in su sotto per da senza fra quando se che chi cosa dove come è era sono ha hanno può
    deve molto più già solo qui là adesso sempre mai
    """,
    """
    acqua albero amica amico amore anno aria arte autunno bacio bambina bambino banco bicchiere
    bocca borsa bosco bottiglia braccio caffè calcio campo cane canzone capelli carne carta casa
    cavallo cena chiave chiesa cielo città classe colore coltello compagno coraggio corpo coscia
    cucina cuore dente dito dolore domanda donna erba estate età famiglia farina festa figlia figlio
    finestra fiore fiume foglia fondo forza fratello freddo frutta fuoco gamba gatto gente ghiaccio
    giardino giocattolo gioia giorno giovane gita gola guerra gusto idea inverno isola lago latte
    lavoro legno lettera letto libro lingua lupo luce luna luogo madre maestra mano mare marito
    mattina medico mela mese mezzo miele minuto moglie momento mondo montagna muro musica naso neve
    nome nonna notte nuvola occhio ombra ora orecchio oro orologio ospite padre paese pagina palazzo
    pane paura pelle pensiero pesce piatto piazza piede pietra pioggia ponte porta posto pranzo
    prezzo primavera quaderno quadro ragazza ragazzo ragione regina regalo re riso riva rosa rumore
    sabbia sale sangue scarpa scuola sedia segno sera settimana sogno sole sonno sorella spalla
    specchio spiaggia stanza stella storia strada tavola tempo terra testa tetto treno uccello uomo
    uovo uva vaso vento verità vestito viaggio vino viso vita voce zio zucchero allegro alto amaro
    antico basso bello bianco breve brutto buono caldo caro cattivo chiaro corto debole dolce duro
    facile felice forte fresco gentile giallo giusto grande grigio grosso largo leggero lento
    libero lontano lungo magro nero nuovo pesante piccolo pieno povero profondo pulito ricco rosso
    rotondo sano scuro semplice sporco stanco stretto strano triste vecchio verde vicino vuoto
    amare andare aprire arrivare aspettare avere bere cadere cambiare cantare capire cercare
    chiamare chiedere chiudere cominciare comprare conoscere correre credere cuocere dare dire
    dormire fare finire giocare guardare imparare lasciare lavare leggere mangiare mettere morire
    nascere parlare partire pensare perdere piangere portare prendere ricordare ridere rispondere
    salire sapere scegliere scrivere sentire stare tenere tornare trovare uscire vedere vendere
    venire vincere vivere volere
    """,
    """
    aceto aglio agnello ago aquila aragosta asciugamano asino balena bandiera barca bicicletta
    bottone bussola calza camicia candela cappello carciofo cesto ciliegia cipolla coniglio cravatta
    cuscino delfino dottore elefante falegname farfalla forbici formaggio formica fragola fungo
    gallina gelato ghiro giacca ginocchio gonna lampada lenzuolo limone lumaca maglia mosca nebbia
    nido noce occhiali ombrello orso palla pecora pennello pesca pettine pomodoro quercia rana
    ragno sapone scala sciarpa scimmia scoiattolo sveglia tamburo tartaruga temporale topo
    tovaglia vigile volpe zaino zanzara zucca bagnato buffo comodo curioso furbo goloso lucido
    morbido pigro prezioso umido abbracciare accendere bussare costruire dipingere disegnare
    fischiare fuggire gridare nascondere nuotare pulire saltare scoprire spegnere spingere
    svegliare volare
    """,
    _ROLLED,
)
_PORTUGUESE = _language(
    "pt pt-br",
    """
    o a os as um uma e ou mas não também eu tu ele ela nós eles meu teu seu nosso com de do da em
    no na sobre sob para por sem desde até quando se que quem onde como é era são está há tem pode
    deve muito mais já só aqui ali agora sempre nunca
    """,
    """
    abraço água alegria aluno amigo amor ano areia ar árvore aula avó azeite baile banco barco
    beijo boca bola bolo bolsa bom braço cabeça cabelo cadeira café caixa calor cama caminho campo
    canção cão cara carne carro carta casa cavalo céu chão chapéu chave cheiro chuva cidade cinema
    coisa comida conta copo cor coração corpo costa cozinha criança dedo dente dia dinheiro dor
    escola espelho estrada estrela família farinha feijão festa filha filho fim flor fogo folha fome
    força frente fruta garrafa gato gelo gente gosto governo guerra história hoje homem hora igreja
    ilha irmã irmão janela jardim jogo jornal lado lago lâmpada leite lembrança letra limão língua
    linha livro lobo lua lugar luz maçã mãe mão manhã mar marido médico medo mel menina menino mesa
    mês minuto moça momento monte montanha mulher mundo muro música nariz navio neve noite nome
    nuvem olho ombro onda orelha ouro outono ovo pai país palavra pão papel parede parte passo
    pássaro pé pedra peixe pele perna pergunta pessoa ponte porta porto povo praça praia prato preço
    primavera quadro quarto queijo rainha rapaz razão rei relógio rio roda rosto rua sal sala sangue
    sapato saúde segredo semana senhor sol sombra sonho sono sorriso tarde tempo terra tia tinta
    trabalho trem vaca vento verão verdade vestido viagem vida vila vinho vizinho voz alegre alto
    amarelo antigo azul baixo barato belo bonito branco caro cedo cheio claro comprido curto doce
    doente duro escuro estranho fácil feio feliz forte fraco frio fundo gordo grande grosso jovem
    largo lento leve limpo lindo livre longe magro mau mole novo pequeno perto pobre preto pronto
    quente rápido rico roxo seco só sujo triste vazio velho verde vermelho abrir achar acordar
    ajudar andar aprender beber brincar buscar cair cantar chamar chegar chorar começar comer
    comprar conhecer contar correr crescer dançar dar deixar descansar dizer dormir encontrar
    entender entrar escrever esperar esquecer estudar falar fazer fechar ficar ganhar gostar jogar
    ler levar lembrar mandar morar morrer mudar nascer olhar ouvir pagar partir passar pedir pensar
    perder poder pôr querer responder rir saber sair sentir sonhar subir ter tirar tocar tomar
    trazer vender ver viver voltar
    """,
    """
    abelha abóbora agulha alface algodão andorinha anel aranha armário avião balão baleia bandeira
    barba bicicleta bigode bombeiro borboleta botão burro cachorro caneta carneiro
    cebola cenoura cereja chinelo cigarra cobertor coelho colher coruja cotovelo cozinheiro
    dentista desenho elefante escada esquilo faca faísca farol formiga galinha garfo gaveta girafa
    golfinho guarda ilhéu jacaré joelho lagarta lençol leão lixo macaco mala martelo meia
    morango mosca ninho óculos ovelha padeiro palhaço panela pato pescador pêssego pimenta pincel
    pulmão rã raposa rato remédio sabão sacola sereia tambor tapete tartaruga tesoura toalha
    tomate torre trovão tubarão urso uva vassoura xícara áspero bravo cansado corajoso curioso
    engraçado gentil maduro molhado orgulhoso preguiçoso sábio úmido acender apagar cavar colar
    desenhar empurrar ensinar esconder gritar lavar mergulhar nadar pular puxar quebrar soprar
    varrer voar
    """,
    {"&": "uh", "y": "ih", **_ROLLED},
)
_DUTCH = _language(
    "nl",
    """
    de het een en of maar niet ook ik jij hij zij wij jullie mijn jouw zijn haar ons met van naar
    in op aan bij voor over onder door zonder tegen als omdat dat hoe wat wie waar is was heeft
    wordt kan moet zeer nog al alleen hier daar nu altijd nooit
    """,
    """
    aarde appel arm avond baas bal bank bed been berg bericht bloem boek boer bomen boot bord bos
    boter brief broer brood brug buik buur dag dak deur dier ding dochter dokter donder dorp dorst
    draad duim eend eten familie feest fiets fles fruit gast gebouw geld geluid geluk gezicht glas
    goud gras groente hand haan haar hart heer hemel herfst hond honger hoofd hout huis huur jaar
    jas jongen kaas kamer kast kat keuken kerk keel kind kip kist klas klok koe koffie koning kop
    kracht krant kruid lamp land leeuw leraar leven licht liefde lied lucht maan maand man markt
    meisje melk mens mes meneer middag minuut moeder mond morgen muis muur muziek naam nacht nek
    neus nieuws oog oor oma onweer oom oven paard pad pan papier peer pijn plaats plant plein poes
    prijs raam rand regen reis rijst rivier rok rots rug ruimte school schaap schip schoen schouder
    sleutel slot sneeuw spel spiegel stad steen stem ster stoel straat strand stuk suiker taal tafel
    tand tante tas tijd toren trap trein tuin uur vader vaas vinger vis vlees vlieg vloer voet vogel
    volk vork vraag vriend vrouw vuur waarheid wagen wal water weer week weg wereld werk wijn wind
    winkel winter woord zaak zand zee ziel zoon zomer zon zout zus aardig bang blauw blij boos
    breed bruin diep dik donker droog duidelijk duur dun echt fijn fris geel gelukkig gezond goed
    goedkoop groen groot grijs hard heet hoog jong kort koud klaar klein laag laat lang langzaam
    leeg lekker leuk lief mooi moe moeilijk nat nieuw open oud rijk rood rond rustig schoon
    slim smal snel sterk stil trots vies vlug vol vroeg vrij vrolijk warm wit ziek zacht zwaar
    zwart beginnen bellen bewaren blijven breken brengen denken doen dragen drinken dromen geven
    geloven gooien groeien halen hebben helpen heten hopen horen houden huilen kennen kiezen kijken
    klimmen komen kopen koken krijgen lachen laten leggen leren lezen liggen lopen luisteren maken
    nemen noemen praten proberen rijden roepen schrijven slapen sluiten spelen spreken staan sturen
    trekken vallen vangen vergeten verkopen verliezen vinden vliegen voelen vragen wachten wandelen
    wassen weten willen wonen worden zeggen zien zingen zitten zoeken zwemmen
    """,
    """
    aardbei aap ballon beker bezem bijl blad bliksem boon borstel brandweer bril brouwer burger
    citroen deken duif eekhoorn egel eiland emmer ezel fluit gans garage geit gieter gordijn haven
    hamer heks hert honing ijs jurk kaars kachel kam kameel kers keizer kikker knie knoop konijn
    koor kraai kruik kussen kwast ladder lepel laars mier mol molen mug mouw nest olifant paddestoel
    parel paraplu perzik pleister poort potlood puzzel raket rups schaar schilder schroef sjaal
    slager slang spin spons stoomboot struik tijger trommel trui ui uil varken veer vleermuis
    vlinder vos vuurtoren walvis wolk worst wortel zeep zwaan bleek braaf brutaal dapper eerlijk
    fluweel gierig handig jaloers knap lui nieuwsgierig scherp stevig vochtig wijs bakken bouwen
    duwen fluiten fluisteren graven knippen niezen ontdekken plukken schilderen springen strijken
    tekenen vegen zuchten
    """,
    {"8": "er", "Q": "k", "!": "k", **_ROLLED, **_ROUNDED_IN_FRONT},
)
_POLISH = _language(
    "pl",
    """
    i a ale lub nie tak też ja ty on ona my wy oni mój twój jego nasz z ze w we na pod nad do od po
    za przed przez bez dla o gdy jeśli bo że jak co kto gdzie jest był była są ma może musi bardzo
    jeszcze już tylko tu tam teraz zawsze nigdy
    """,
    """
    babcia bajka balkon bank bilet biurko blask błoto boisko bok brat brzeg brzuch bułka burza buty
    chleb chłopiec chmura chwila ciało ciasto cień cisza córka cukier czas część człowiek dach
    dolina dom droga drzewo drzwi duch dusza dym dziecko dzień dzwon dziadek fala gałąź gardło
    gazeta głos głowa godzina góra gość gra grupa grzyb gwiazda herbata historia imię jabłko jajko
    jesień jezioro język kamień kapelusz karta kawa kąt klucz kobieta kolano kolor koniec koń
    kościół koszula kot kraj król krew krok krowa krzesło książka księżyc kuchnia kwiat lampa las
    lato lekarz liść list lód ludzie łąka łóżko łyżka mama masło matka mąż miasto miesiąc miejsce
    miłość mleko młodość morze most muzyka mysz myśl nauka niebo noc noga nos nóż obiad obraz ochota
    oczy ogień ogród ojciec okno oko opowieść owca owoc palec pan papier park piasek pies pieniądze
    pieśń pięść pióro pismo piwo plaża płot pociąg początek podłoga podróż pogoda pokój pole pomoc
    poranek praca prawda prezent ptak pytanie radość ramię rano ręka robota rodzina rok rower róża
    rynek ryba rzecz rzeka samochód sąsiad ser serce siła siostra skała sklep skóra słowo słońce
    smak sobota sok sól spacer sprawa stół strona sukienka syn szczęście szkło szkoła ściana śmiech
    śnieg świat światło talerz taniec tata torba trawa twarz tydzień ucho ulica usta uśmiech wakacje
    wiatr wieczór wiek wieś wino wiosna wnuk woda wóz wrzesień wujek wyspa wzrok zabawa zachód zając
    zamek zapach zdjęcie zdrowie ziemia zima złoto zwierzę życie żona biały bliski bogaty brązowy
    brudny chory ciemny ciepły cichy ciężki czarny czerwony czysty daleki długi dobry drogi duży
    dziwny głęboki głodny głośny gorący gruby jasny krótki lekki ładny łatwy mały mądry miły młody
    mocny niebieski nowy okrągły ostry piękny pełny pewny prosty pusty słaby słodki smutny spokojny
    stary suchy szary szczery szeroki szybki śmieszny trudny twardy wąski ważny wesoły wielki wolny
    wysoki zielony zimny zły żółty biegać brać budować być chcieć chodzić cieszyć czekać czytać
    dawać gotować grać iść jechać jeść kochać kończyć krzyczeć kupić leżeć lubić mieć mieszkać móc
    mówić myć myśleć nosić oddać padać pamiętać patrzeć pić pisać płacić płakać pływać pokazać
    pracować prosić przyjść pytać robić rosnąć rozumieć siedzieć skakać słuchać słyszeć spać stać
    szukać śmiać śpiewać tańczyć trzymać uczyć umieć widzieć wiedzieć wołać wracać zacząć znać żyć
    """,
    """
    agrest baran bęben bocian brzoza bursztyn cebula ciocia cytryna czapka czereśnia deszcz dywan
    dzięcioł fotel gęś gołąb grzebień guzik hak hałas huśtawka igła jaskółka jeż kaczka kalafior
    kapusta kieszeń kogut kołdra koza krawiec kredka kurtka lis lody lotnisko łabędź łódź malina
    marchew mgła miód mrówka mucha mydło motyl namiot niedźwiedź nożyczki obrus okulary orzech osioł
    pająk parasol piekarz pietruszka plecak poduszka pomidor pszczoła rękawiczka ropucha rzodkiewka
    sarna skarpeta skrzypce słoń sowa spodnie strażak szafa szalik szczotka śliwka ślimak truskawka
    tęcza ulewa waga wąż wiewiórka wilk wieloryb wrona zegar źródło żaba żółw blady ciekawy dzielny
    grzeczny leniwy mokry puszysty tchórzliwy uprzejmy wilgotny zręczny błyszczeć chrapać dmuchać
    gwizdać kłaść łowić malować mieszać naprawiać odkryć pchać rysować sprzątać szeptać tłumaczyć
    wąchać zbierać
    """,
    {"y": "ih", "Q": "k", "C": "y", "S;": "s", "Z;": "s", **_ROLLED},
)

LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        "de": _GERMAN,
        "fr": _FRENCH,
        "es": _SPANISH,
        "it": _ITALIAN,
        "pt": _PORTUGUESE,
        "nl": _DUTCH,
        "pl": _POLISH,
    }
)
"""Those besides English, by their two letters."""
